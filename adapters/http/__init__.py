"""Lapse over HTTP: FastAPI routes on the use cases, JWT for who may, problem+json for refusals."""
