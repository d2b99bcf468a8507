/* The one way to wait for the clock or for a key. */
#ifndef OBATCH_TERM_H
#define OBATCH_TERM_H

#include <signal.h>

enum wake { TIME_UP, READABLE, FLAGGED, STOP };

/* Waits until fd (-1: none) can be read, the monotonic clock says deadline, a stop is asked for
 * (see obatch_interrupted), or a signal handler has set *flag (NULL: none). */
enum wake term_wait(int fd, double deadline, const volatile sig_atomic_t *flag);

#endif
