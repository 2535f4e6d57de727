#!/bin/sh
# A current RabbitMQ for a Debian whose own has no support any more, or is not installed.
#
#   rabbitmq-current.sh found      status 0 if a rabbitmq-server with support is here already
#   rabbitmq-current.sh prepare    as root, with mmdebstrap: makes one, once (a minute, 250 MB)
#
# It lies in the user's cache folder: the /usr of a newer suite of Debian, and a bin/ whose programs run with that
# in place of the system's, in a mount namespace of their own. Nothing of the system is changed.
set -eu
umask 022

suite=${GREET_RABBITMQ_SUITE:-forky}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/greet
place=$cache/rabbitmq-$suite
ended=$(dirname "$0")/rabbitmq.ended

# Whether the server at $1 is of a series that has support; one that does not tell its version is believed.
supported() {
  version=$(readlink -f "$1" 2>/dev/null | sed -n 's|.*rabbitmq\(_server\)\{0,1\}[-/]\([0-9][0-9]*\)\.\([0-9][0-9]*\).*|\2 \3|p')
  set -- ${version:-999 0} $(tail -n 1 "$ended" | tr . ' ')
  [ "$1" -gt "$3" ] || { [ "$1" -eq "$3" ] && [ "$2" -gt "$4" ]; }
}

found() {
  [ -z "${GREET_RABBITMQ_SERVER:-}" ] && [ ! -x "$place/bin/rabbitmq-server" ] || return 0
  # As the kit looks for it; /usr/sbin has a wrapper, which becomes another user.
  PATH="$(echo ":$PATH:" | sed 's,:/usr/sbin:,:,g; s,:/sbin:,:,g'):${CONDA_PREFIX:-/nonexistent}/bin:/usr/lib/rabbitmq/bin"
  PATH="$PATH:/opt/homebrew/sbin:/opt/homebrew/opt/rabbitmq/sbin:/usr/local/sbin:/usr/local/opt/rabbitmq/sbin:/usr/sbin"
  server=$(command -v rabbitmq-server) && supported "$server"
}

bootstrap() {  # $@: more options; what it says is in $log
  rm -rf "$place.new"
  mkdir -p "$place.new/bin"
  mmdebstrap --variant=minbase --include=rabbitmq-server --aptopt='Acquire::Languages "none"' "$@" \
    "$suite" "$place.new/root" >"$log" 2>&1
}

prepare() {
  mkdir -p "$cache"
  exec 9>"$place.lock"
  flock 9  # another make may be at it
  ! found || return 0
  if ! unshare --mount true 2>/dev/null || [ ! -L /bin ]; then  # most containers refuse mounts
    echo "setup: no current RabbitMQ: it needs its own mounts and a merged /usr; the system's own is taken" >&2
    return 1
  fi
  echo "setup: a current RabbitMQ from Debian's $suite, in $cache (a minute, once)"
  log=$place.log
  if ! bootstrap; then
    grep -q 'is expired' "$log" || fail
    # A mirror that is behind, or a suite that is no longer kept up: what it has is still signed by Debian.
    echo "setup: the lists of Debian's $suite are out of date: taking what they have; for another suite set GREET_RABBITMQ_SUITE"
    bootstrap --aptopt='Acquire::Check-Valid-Until "false"' || fail
  fi
  cat >"$place.new/bin/rabbitmq-server" <<'END'
#!/bin/sh
# The program of this name with the /usr beside it in place of the system's. The mounts end with it.
exec unshare --mount sh -c '
root=$1; shift
mount --bind "$root/usr" /usr && mount --bind "$root/etc/alternatives" /etc/alternatives && exec "$@"' \
  sh "$(dirname "$(dirname "$0")")/root" "/usr/lib/rabbitmq/bin/$(basename "$0")" "$@"
END
  chmod 755 "$place.new/bin/rabbitmq-server"
  for tool in rabbitmqctl rabbitmq-plugins rabbitmq-diagnostics rabbitmq-queues rabbitmq-streams; do
    ln -s rabbitmq-server "$place.new/bin/$tool"
  done
  rm -rf "$place"
  mv "$place.new" "$place"
  rm -f "$log"
}

fail() {
  rm -rf "$place.new"
  echo "no RabbitMQ from Debian's suite $suite: $(grep '^E:' "$log" | head -n 1); set GREET_RABBITMQ_SUITE to a newer one" >&2
  exit 1
}

"$1"
