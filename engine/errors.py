"""What can go wrong in the engine. Messages read: where: expected X, got Y; do Z."""


class EngineError(Exception):
    """Base of every error the engine raises on purpose."""


class ModelError(EngineError):
    """The model file is missing, malformed, or reaches outside its folder."""


class UnsupportedError(EngineError):
    """A node that nothing here can run, or a graph whose rows cannot be told apart."""


class FeedError(EngineError):
    """The arrays given to a session do not fit the program's inputs."""
