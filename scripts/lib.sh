# Shared by the scripts: what a fresh machine lacks is installed here.
# Sourced, not run.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# The command itself first, so that a reader can repeat it by hand.
show() {
	printf '\n$ %s\n' "$*"
	"$@"
}

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_updated=
# apt_install PACKAGE...: installs what is missing; fails where there is no apt.
apt_install() {
	local missing=()
	for package in "$@"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return 0
	command -v apt-get >/dev/null || return 1
	say "installing: ${missing[*]}"
	if [ -z "$apt_updated" ]; then
		as_root apt-get update -qq
		apt_updated=1
	fi
	# Services of the packages (registries, daemons) are not to be started.
	local policy=/usr/sbin/policy-rc.d own_policy= status=0
	if [ ! -e $policy ]; then
		own_policy=1
		printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin $policy
	fi
	as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
		apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || status=$?
	[ -z "$own_policy" ] || as_root rm -f $policy
	return $status
}

# The compiler that the workspace asks for: by rustup where there is one, else
# the distribution's, else rustup's own installer.
ensure_rust() {
	[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
	if ! command -v cc >/dev/null; then apt_install gcc libc6-dev || {
		say "a C compiler is needed (gcc or clang)"
		exit 3
	}; fi
	rust_is_new_enough && return 0
	if command -v rustup >/dev/null; then
		rustup toolchain install stable --profile minimal -c clippy -c rustfmt >/dev/null && rustup default stable >/dev/null
		rust_is_new_enough && return 0
	fi
	apt_install cargo rustc 2>/dev/null || true
	rust_is_new_enough && return 0
	if command -v curl >/dev/null || apt_install curl ca-certificates; then
		say "installing Rust with rustup"
		curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c clippy -c rustfmt
		. "$HOME/.cargo/env"
	fi
	rust_is_new_enough || {
		say "Rust $(minimum_rust) or newer is needed: https://rustup.rs"
		exit 3
	}
}

minimum_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

rust_is_new_enough() {
	command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
	local have
	have=$(rustc --version | awk '{print $2}')
	[ "$(printf '%s\n%s\n' "$(minimum_rust)" "${have%%-*}" | sort -V | head -n1)" = "$(minimum_rust)" ]
}

# debian_base FILE: a real Debian root file system as a tar, with the machine's
# own certificate authorities in it. Kept for a day. Fails where Debian is not to be had.
debian_base() {
	local tar=$1
	if [ -s "$tar" ] && [ -n "$(find "$tar" -mmin -1440)" ]; then return 0; fi
	[ "$(id -u)" = 0 ] || return 1
	apt_install mmdebstrap || return 1
	mkdir -p "$(dirname "$tar")"
	say "making a Debian root file system (about 20 seconds)"
	mmdebstrap --quiet --format=tar --variant=apt --include=ca-certificates \
		--customize-hook='
			set -e
			for crt in /usr/local/share/ca-certificates/*.crt; do
				[ -e "$crt" ] || continue
				mkdir -p "$1/usr/local/share/ca-certificates"
				cp "$crt" "$1/usr/local/share/ca-certificates/"
			done
			chroot "$1" update-ca-certificates >/dev/null' \
		bookworm "$tar.new" >/dev/null 2>"$tar.log" || { cat "$tar.log" >&2; rm -f "$tar.new"; return 1; }
	mv "$tar.new" "$tar"
}
