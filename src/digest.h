/* What bytes are known by. A digest is a plain struct: it can be copied (which keeps the state it
 * had), holds nothing that must be freed, and nothing here can fail. Both come from libnettle,
 * which is a tenth of libcrypto to load.
 *
 * SHA-256 is for names that others may know too, or that somebody might forge.
 *
 * A fingerprint is for our own question whether a file is still what it was: UMAC-128 (RFC 4418)
 * with a fixed key. Two files that differ by chance have the same one with a probability of less
 * than 2^-100, and it takes a quarter of the time that the processor's own instructions for SHA-256
 * take, a fifteenth where there are none. Who knows the key can make such files; but who can write
 * into a job's folder can as well write its journal. */
#ifndef OBATCH_DIGEST_H
#define OBATCH_DIGEST_H

#include <nettle/sha2.h>
#include <nettle/umac.h>
#include <stddef.h>

enum { DIGEST_LENGTH = SHA256_DIGEST_SIZE, FINGERPRINT_LENGTH = UMAC128_DIGEST_SIZE };

enum digest_kind { DIGEST_NONE, DIGEST_SHA256, DIGEST_FINGERPRINT };

struct digest {
    enum digest_kind kind;
    union {
        struct sha256_ctx sha256;
        struct umac128_ctx umac;
    } state;
};

static inline void digest_init(struct digest *digest, enum digest_kind kind) {
    digest->kind = kind;
    if (kind == DIGEST_SHA256) sha256_init(&digest->state.sha256);
    if (kind == DIGEST_FINGERPRINT)
        umac128_set_key(&digest->state.umac, (const unsigned char *)"obatch: the file");
}

static inline void digest_update(struct digest *digest, const void *bytes, size_t length) {
    if (digest->kind == DIGEST_SHA256) sha256_update(&digest->state.sha256, length, bytes);
    if (digest->kind == DIGEST_FINGERPRINT) umac128_update(&digest->state.umac, length, bytes);
}

/* Writes DIGEST_LENGTH or FINGERPRINT_LENGTH bytes, and returns how many; of none, 0. The digest is
 * not to be used again then. */
static inline size_t digest_finish(struct digest *digest, unsigned char to[DIGEST_LENGTH]) {
    if (digest->kind == DIGEST_NONE) return 0;
    if (digest->kind == DIGEST_SHA256) {
        sha256_digest(&digest->state.sha256, DIGEST_LENGTH, to);
        return DIGEST_LENGTH;
    }
    umac128_digest(&digest->state.umac, FINGERPRINT_LENGTH, to);
    return FINGERPRINT_LENGTH;
}

#endif
