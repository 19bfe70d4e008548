"""The experiments of the DistillSpec paper on the embedded tasks, from training to a page: `make paper`."""
