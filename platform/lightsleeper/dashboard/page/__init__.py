"""The self-contained HTML page of the dashboard: a template, a style sheet and plain scripts around plotly."""
