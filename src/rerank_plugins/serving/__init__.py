"""The HTTP server: one reranker behind the rerank formats that clients already speak (extra `serve`)."""
