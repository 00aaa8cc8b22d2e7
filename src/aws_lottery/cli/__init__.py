"""The command `aws-lottery`, and the command lines of the recipes.

A command is one file here and one name in `commands.COMMANDS`. The file has

- a docstring. Its first line describes the command in `aws-lottery --help`. The text before the line `Examples:` opens
  the command's own help, and the examples close it;
- `parser(argv) -> CommandParser`: its options, `CommandParser(__doc__)` or `options.options(__doc__, ...)` with some
  added. argv is for defaults that depend on another option, which `parser.chosen(argv, "model")` looks up.
  Options that are parameters of a class or a function of the package are made from it by
  `CommandParser.add_parameters`, so that their help is its docstring and stands once;
- `run(args)`, which does the work. It raises a user's error as the rest of the package does
  (ValueError, OSError), and `main` shows its message alone.

The file of a command imports heavy libraries; `main` imports it only when that command is called.
"""
