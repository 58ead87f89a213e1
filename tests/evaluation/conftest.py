"""Sets to evaluate on, for the tests of this folder."""

from evaluation_sets import no_java, prepared, sets, small_clip  # noqa: F401  (fixtures)
