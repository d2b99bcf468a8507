/* Work that other threads may do while this one goes on: for loops whose pieces do not depend on
 * each other and whose results are taken in order.
 *
 * One thread is Lua's. It makes tasks, submits them, and waits for them in the order it likes; no
 * task touches Lua, raises or prints, but a task may submit another. With one thread in all, tasks
 * run when they are waited for.
 */
#ifndef OBATCH_POOL_H
#define OBATCH_POOL_H

#include <stdbool.h>

/* Lives in the caller's memory, usually as the first member of what the task works on, from
 * pool_submit to pool_wait. */
struct pool_task {
    void (*run)(struct pool_task *task);
    struct pool_task *next; /* the pool's own from here on */
    enum { POOL_QUEUED, POOL_RUNNING, POOL_DONE } state;
};

enum { POOL_THREADS = 64 }; /* at most */

/* From now on so many threads work, the one of Lua included: a decimal number from 1 to
 * POOL_THREADS; for NULL and "" 2, or 1 where there are no two processors. False, and nothing
 * changes, for anything else. Not after the first pool_submit. */
bool pool_choose(const char *count);

/* How many threads work. Before the first pool_choose it is what $OBATCH_THREADS says, if it can.
 */
int pool_threads(void);

/* Puts a task behind those that wait. The first call starts the threads; where that is impossible,
 * pool_wait does all the work. */
void pool_submit(struct pool_task *task);

/* Returns when the task has run. When nobody has begun it, the caller does it itself; while another
 * thread is at it, the caller does what else is waiting. */
void pool_wait(struct pool_task *task);

/* Returns when the task has run, or never will because nobody had begun it. */
void pool_cancel(struct pool_task *task);

#endif
