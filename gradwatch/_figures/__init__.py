"""The figures, one file each, as plain plotly dicts; and what they share."""
