/* What system calls leave to their callers: whole writes, durable names, the monotonic clock, and
 * the signals that ask for a stop. No Lua here. */
#ifndef OBATCH_OS_H
#define OBATCH_OS_H

#include <signal.h>
#include <stddef.h>

/* The signals that ask for a stop; see obatch_interrupted. */
enum { OS_STOPS = 3 };
extern const int os_stops[OS_STOPS];

/* Blocks them and gives the mask as it was. Whoever looks at obatch_interrupted and then sleeps
 * with that mask (ppoll, epoll_pwait) sleeps through none. */
void os_block_stops(sigset_t *before);

/* Monotonic seconds. */
double os_clock(void);

/* Writes all of it, whatever signals come: a stop is no reason to tear what is being written. 0 or
 * an errno. */
int os_write_all(int fd, const char *bytes, size_t length);

/* Makes the names in the folder that holds path durable. 0 or an errno. */
int os_sync_parent(const char *path);

/* What a file is called until it is whole: "<path>.part", written to part, which has room for
 * OS_PART_ROOM bytes more than path is long. Where the name would then be too long for a folder, it
 * is cut before ".part". */
enum { OS_PART_ROOM = sizeof ".part" };
void os_part_name(const char *path, char *part);

/* Makes a file that was not there, for writing. A file or link of that name, which an earlier run
 * may have left, is removed first: nothing is ever written through a link, nor into a file that has
 * another name too. EEXIST for what is neither (a folder, a device), which stays. 0 or an errno. */
int os_create(const char *path, int *fd);

#endif
