"""Chat templates in Jinja, as tokenizers and processors of transformers keep them."""

from __future__ import annotations

import json

from seedtok.lm.native import Template

IMAGE = "<image>"  # in a text, the place of an image; in ids, the place of each of its codes


def chat_template_of(template: Template) -> str:
    """A chat template that asks as a `Template` does: turns of the user's and the model's alternately."""
    parts = (template.start, template.before, template.after, template.answer, template.between)
    start, before, after, answer, between = map(json.dumps, parts)
    content = (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{{{{ '{IMAGE}' }}}}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endif %}"
    )
    return (
        f"{{{{ bos_token }}}}{{{{ {start} }}}}{{% for message in messages %}}"
        f"{{% if message['role'] == 'assistant' %}}{{{{ {answer} }}}}{content}{{{{ {between} }}}}"
        f"{{% else %}}{{{{ {before} }}}}{content}{{{{ {after} }}}}{{% endif %}}"
        "{% endfor %}"
    )
