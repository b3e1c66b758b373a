"""Wire formats: each module maps a body to a `RerankRequest` and a `RerankReply` to JSON, nothing else."""
