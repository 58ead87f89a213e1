"""Chat templates in Jinja, as tokenizers and processors of transformers keep them."""

from __future__ import annotations

import json

from seedtok.lm.native import Template

IMAGE = "<image>"  # in a text, the place of an image; in ids, the place of each of its codes


def chat_template_of(template: Template) -> str:
    """A chat template that asks as a `Template` does: turns of the user's and the model's alternately."""
    before, after, between = (json.dumps(part) for part in (template.before, template.after, template.between))
    parts = (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{{{{ '{IMAGE}' }}}}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endif %}"
    )
    return (
        "{{ bos_token }}{% for message in messages %}"
        f"{{% if message['role'] == 'assistant' %}}{parts}{{{{ {between} }}}}"
        f"{{% else %}}{{{{ {before} }}}}{parts}{{{{ {after} }}}}{{% endif %}}"
        "{% endfor %}"
    )
