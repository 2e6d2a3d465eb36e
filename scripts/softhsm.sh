# shellcheck shell=bash
# Sourced, not run: where SoftHSM is and how to make a throwaway token.

# softhsm_module prints the path of SoftHSM's PKCS#11 library. Debian puts it
# in /usr/lib/softhsm (a link into the multiarch folder); others differ.
softhsm_module() {
	local candidate
	for candidate in "${MPC_SOFTHSM_MODULE:-}" \
		/usr/lib/softhsm/libsofthsm2.so \
		/usr/lib/*/softhsm/libsofthsm2.so \
		/usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
		/usr/local/lib/softhsm/libsofthsm2.so; do
		if [[ -n "$candidate" && -f "$candidate" ]]; then
			printf '%s\n' "$candidate"
			return 0
		fi
	done
	echo "softhsm: libsofthsm2.so not found; install softhsm2 or set MPC_SOFTHSM_MODULE to its path" >&2
	return 1
}

# softhsm_token DIR LABEL makes a token in DIR, which must be private:
# DIR/softhsm2.conf for SOFTHSM2_CONF, and DIR/pin with the user PIN and no
# newline, for `vault write … pin=@DIR/pin`.
softhsm_token() {
	local dir=$1 label=$2 pin so_pin
	mkdir -m 700 "$dir/tokens"
	cat >"$dir/softhsm2.conf" <<-CONF
		directories.tokendir = $dir/tokens
		objectstore.backend = file
		log.level = ERROR
	CONF
	pin=$(random_hex 8)
	so_pin=$(random_hex 8)
	(umask 077 && printf '%s' "$pin" >"$dir/pin")
	# softhsm2-util takes PINs from its arguments or a terminal only. This
	# token lives for one demo; never do this with a real one.
	SOFTHSM2_CONF=$dir/softhsm2.conf softhsm2-util --init-token --free \
		--label "$label" --pin "$pin" --so-pin "$so_pin" >"$dir/softhsm2-util.log" 2>&1 || {
		echo "softhsm: could not make a token:" >&2
		cat "$dir/softhsm2-util.log" >&2
		return 1
	}
}

# random_hex N prints N random bytes as 2N hex digits.
random_hex() { od -An -v -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
