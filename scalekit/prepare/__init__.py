"""Stage: from documents to shards of tokens with a manifest."""
