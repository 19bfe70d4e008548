"""An HTTP server for one target and its drafts: OpenAI's completions over continuous batching.

`requests` parses clients' requests, `answers` writes the responses, `worker` decodes in its own thread,
`follower` loads drafts from a registry, `app` connects them.
"""
