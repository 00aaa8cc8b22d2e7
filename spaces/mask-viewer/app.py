"""A Space that shows signed masks: those in model_cards/, here or in the checkout, and public ones on the Hub."""

from pathlib import Path

from aws_lottery.web.page import serve
from aws_lottery.web.sources import public

HERE = Path(__file__).resolve().parent
MASKS = next((folder for folder in (HERE / "model_cards", HERE.parents[1] / "model_cards") if folder.is_dir()), HERE)

if __name__ == "__main__":
    serve(public(MASKS))
