"""The subcommands of ``gradwatch``, one file each."""
