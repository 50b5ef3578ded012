"""From the results of a run to pages and plots. Nothing here runs anything."""
