"""Drafts in service: a registry of versions, distilling again behind a gate, rolling out in stages."""
