"""Reports: result folders in, one HTML page and its pictures out. Nothing here runs a model."""
