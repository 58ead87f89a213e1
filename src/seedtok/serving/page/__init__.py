"""The web page: gradio lays it out in the browser, and the scripts in `static/` ask the server's own API for all else.

No function of the page runs on the server, so what a browser may ask for is what any client of the API may.
"""
