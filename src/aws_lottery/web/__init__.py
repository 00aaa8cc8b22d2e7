"""A page in the browser that shows a mask: `aws-lottery inspect MASK --web`, and a Space on the Hub (docs/web.md)."""
