"""One training loop for supervised fine-tuning and for distillation."""
