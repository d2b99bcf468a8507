/* What the processor can do to many bytes at once. Every kernel exists for each level that it can
 * be written for: "portable" (plain C, everywhere), "avx2" (x86-64), "neon" (64-bit ARM). All
 * levels give the same answers; the program takes the best one that the machine has.
 *
 * The JSON scanner is one of the kernels: json.h is how it is used. */
#ifndef OBATCH_SIMD_H
#define OBATCH_SIMD_H

#include <stdbool.h>
#include <stddef.h>

/* Takes the level of this name from now on, or the best one for NULL and "". False, and nothing
 * changes, when there is no such level or this machine is not up to it. Before the first call it is
 * the best one, or what $OBATCH_SIMD names if that can be had. Not while another thread scans. */
bool simd_choose(const char *name);

/* The name of the level in use. */
const char *simd_level(void);

/* The name of the i-th level (from 0) that this machine has, the best one first; NULL at the end.
 */
const char *simd_name(int i);

/* Base64 (RFC 4648, section 4, with padding) of the bytes. Returns how many bytes it wrote: 4 for
 * every 3, or part of 3. */
size_t simd_base64(char *to, const unsigned char *from, size_t length);

/* How many bytes at the beginning stand for themselves in a JSON string: none of '"', '\' and those
 * below 0x20. */
size_t simd_json_plain(const char *bytes, size_t length);

#endif
