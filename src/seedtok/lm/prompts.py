"""The paper's prompts (sections 3.1 and 3.2), once, for training, inference and evaluation alike."""

CAPTION = "A photo of"
DRAW = "Generate an image"
# how long a caption and an answer are, as transformers' `generate` has it
CAPTION_LENGTH = {"min_new_tokens": 8, "max_new_tokens": 30}
ANSWER_LENGTH = {"max_new_tokens": 10, "length_penalty": 0.0}


def question_prompt(question: str) -> str:
    """What a question is asked with; the answer follows."""
    return f"Question: {question.strip()} Short answer."


def drawing_prompt(caption: str) -> str:
    """What a picture is asked for with; its codes follow."""
    return f"{DRAW} {caption.strip()}"
