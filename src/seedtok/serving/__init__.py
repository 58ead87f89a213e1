"""An HTTP server with OpenAI's protocol, and a web page, over one SEED language model."""
