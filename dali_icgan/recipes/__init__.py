"""Training recipes, and the one trainer that runs them. Needs the ``train`` extra."""
