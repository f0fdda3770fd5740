class ConvertError(Exception):
    """A reason not to convert: one line a user can act on."""
