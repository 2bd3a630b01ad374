"""Reports: figures of a model as plain JSON, and one page that shows them."""
