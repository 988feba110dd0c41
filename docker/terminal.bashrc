# Read by the bash of the lab's terminals: the user's own settings, and then the lab's environment first again, since
# pyenv and conda put theirs before it.
if [ -r ~/.bashrc ]; then . ~/.bashrc; fi
PATH="${VIRTUAL_ENV:+$VIRTUAL_ENV/bin:}$PATH"
