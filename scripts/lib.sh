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
apt_update() {
	[ -z "$apt_updated" ] || return 0
	as_root apt-get update -qq && apt_updated=1
}

# apt_install PACKAGE...: installs what is missing; fails where there is no apt.
apt_install() {
	local missing=()
	for package in "$@"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} = 0 ] && return 0
	command -v apt-get >/dev/null || return 1
	say "installing: ${missing[*]}"
	apt_update
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
	if distribution_has_rust && apt_install cargo rustc && rust_is_new_enough; then return 0; fi
	if command -v curl >/dev/null || apt_install curl ca-certificates; then
		say "installing Rust with rustup"
		install_rustup -y -q --profile minimal -c clippy -c rustfmt || true
		[ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
	fi
	rust_is_new_enough || {
		say "Rust $(minimum_rust) or newer is needed: https://rustup.rs"
		exit 3
	}
}

# install_rustup ARGUMENT...: runs rustup's installer, by its script or, where only the place
# of the toolchains can be reached, from there.
install_rustup() {
	local installer status=0
	installer=$(mktemp -d)
	if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs -o "$installer/rustup-init" 2>/dev/null; then
		curl --proto '=https' --tlsv1.2 -sSf -o "$installer/rustup-init" \
			"https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu/rustup-init" || status=$?
	fi
	if [ $status = 0 ]; then
		chmod +x "$installer/rustup-init"
		"$installer/rustup-init" "$@" || status=$?
	fi
	rm -rf "$installer"
	return $status
}

minimum_rust() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

rust_is_new_enough() {
	command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
	is_enough "$(rustc --version | awk '{print $2}')"
}

# Whether the distribution's compiler, which is not installed, is new enough.
distribution_has_rust() {
	command -v apt-cache >/dev/null && apt_update || return 1
	is_enough "$(apt-cache policy rustc | awk '$1 == "Candidate:" {print $2}')"
}

# is_enough VERSION: a release such as 1.95.0, or a package's version of one.
is_enough() {
	local minimum
	minimum=$(minimum_rust)
	[[ $1 == [0-9]* ]] && [ "$(printf '%s\n%s\n' "$minimum" "${1%%[-+~]*}" | sort -V | head -n1)" = "$minimum" ]
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
