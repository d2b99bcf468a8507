/* SHA-256. A digest is a plain struct: it can be copied (which keeps the state it had), holds
 * nothing that must be freed, and nothing here can fail. It comes from libnettle, which uses the
 * processor's own instructions as libcrypto does, and is a tenth of it to load. */
#ifndef OBATCH_DIGEST_H
#define OBATCH_DIGEST_H

#include <nettle/sha2.h>
#include <stddef.h>

enum { DIGEST_LENGTH = SHA256_DIGEST_SIZE };

struct digest {
    struct sha256_ctx state;
};

static inline void digest_init(struct digest *digest) {
    sha256_init(&digest->state);
}

static inline void digest_update(struct digest *digest, const void *bytes, size_t length) {
    sha256_update(&digest->state, length, bytes);
}

/* Writes the DIGEST_LENGTH bytes; the digest is then as after digest_init. */
static inline void digest_finish(struct digest *digest, unsigned char *to) {
    sha256_digest(&digest->state, DIGEST_LENGTH, to);
}

#endif
