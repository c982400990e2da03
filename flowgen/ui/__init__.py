"""The page of `flowgen ui`: a form made of a run's own conditions, players, a blind vote, and what a training run writes."""
