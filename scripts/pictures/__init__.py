"""Pictures of the canvas, of nodes, templates and videos."""
