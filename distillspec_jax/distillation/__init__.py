"""Knowledge distillation of a draft from its target (arXiv 2310.08461, section 3)."""
