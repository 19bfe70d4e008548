"""An HTTP server for one target and its drafts: OpenAI's completions over continuous batching.

`requests` reads what clients ask, `answers` writes what they get, `worker` decodes in a thread of its own,
`follower` takes drafts from a registry, `app` joins them.
"""
