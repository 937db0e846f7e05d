"""Three-stage training: glad, unwill, router."""
