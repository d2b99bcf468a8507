/* The body of a reply, as libmicrohttpd asks for it: from memory or a file, at a rate, cut short.
 * Part of the server, see server.h. */
#ifndef OBATCH_REPLY_H
#define OBATCH_REPLY_H

#include "server.h"

#include <microhttpd.h>

/* The response that an answer describes; NULL, and errno set, when it cannot be made. Takes the
 * answer's fd over in any case. */
struct MHD_Response *reply_make(struct request *request, const struct answer *answer);

/* The server's: a client sends or fetches so many bytes, which win back some of its patience. */
void server_got_on(struct client *client, size_t bytes);

#endif
