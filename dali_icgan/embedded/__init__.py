"""A small generator and a small extractor that come with the package: ``load_generator("embedded")``, ``load_extractor("embedded")``."""
