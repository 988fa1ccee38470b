"""scGPT's perturbation model: its form, its tokens, its files."""
