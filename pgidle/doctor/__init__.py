"""`pgidle doctor`: what is there is compared with what pgidle needs. Only `cli` imports this, and only when asked."""
