"""Drafts in service: a registry of versions, gated redistillation, and staged rollouts."""
