"""The command `aws-lottery`, and the command lines of the recipes.

A command is one file here and one name in `commands.COMMANDS`. The file has

- a docstring: its first line is what `aws-lottery --help` says of the command; all before the line `Examples:` heads
  the command's own help, and the examples end it;
- `parser(argv) -> CommandParser`: its options, `CommandParser(__doc__)` or `options.options(__doc__, ...)` with some
  added. argv is there for defaults that depend on another option, which `parser.chosen(argv, "model")` looks up.
  Options that are parameters of a class or a function of the package are made from it by
  `CommandParser.add_parameters`, so that their help is its docstring and stands once;
- `run(given)`: does it, from the parsed options. An error of the user is raised as everywhere in the package
  (ValueError, OSError), and `main` shows its message alone.

Heavy libraries are imported by the files of commands, and these only when their command is called.
"""
