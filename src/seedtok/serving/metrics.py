"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server; two servers in a process have their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "seedtok_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )  # fmt: skip
        self.seconds = Histogram(
            "seedtok_request_seconds", "Time from a request to the end of its answer.", ["path"],
            registry=self.registry, buckets=SECONDS,
        )  # fmt: skip
        self.open = Gauge("seedtok_open_requests", "Requests being answered.", registry=self.registry)
        self.waiting = Gauge("seedtok_waiting", "Texts and pictures in the queue.", registry=self.registry)
        self.made = Counter("seedtok_made", "Texts, pictures and codes made.", ["task"], registry=self.registry)
        self.cancelled = Counter(
            "seedtok_cancelled", "Texts and pictures dropped, since nobody waited for them.", registry=self.registry
        )  # fmt: skip
        self.batches = Histogram(
            "seedtok_batch_size", "Pieces of work that ran together.", ["task"], registry=self.registry, buckets=BATCHES
        )
        self.batch_seconds = Histogram(
            "seedtok_batch_seconds", "Time that a batch took.", ["task"], registry=self.registry, buckets=SECONDS
        )

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self.registry)
