//! The portolan binary: configuration, composition root, subcommands.
