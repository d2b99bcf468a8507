#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { USUAL_THREADS = 2 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static struct pool_task *first, **last = &first; /* that nobody has begun */
static int threads;                              /* 0: not chosen yet */
static bool started;

bool pool_choose(const char *count) {
    if (count && *count) {
        long wish = strtol(count, NULL, 10);
        if (count[strspn(count, "0123456789")] || wish < 1 || wish > POOL_THREADS) return false;
        threads = (int)wish;
        return true;
    }
    cpu_set_t set;
    int processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : USUAL_THREADS;
    threads = processors < USUAL_THREADS ? processors : USUAL_THREADS;
    return true;
}

int pool_threads(void) {
    if (threads == 0 && !pool_choose(getenv("OBATCH_THREADS"))) pool_choose(NULL);
    return threads;
}

/* Runs a task that has been taken out of the queue. Comes and goes with the mutex held. */
static void run(struct pool_task *task) {
    task->state = POOL_RUNNING;
    pthread_mutex_unlock(&mutex);
    task->run(task);
    pthread_mutex_lock(&mutex);
    task->state = POOL_DONE;
    pthread_cond_signal(&done); /* only one thread ever waits */
}

/* Takes a task that nobody has begun out of the queue. */
static void take(struct pool_task *task) {
    struct pool_task **link = &first;
    while (*link != task) link = &(*link)->next;
    *link = task->next;
    if (last == &task->next) last = link;
}

static void *serve(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (!first) pthread_cond_wait(&work, &mutex);
        struct pool_task *task = first;
        take(task);
        run(task);
    }
    return NULL;
}

/* Signals are Lua's thread's: a handler here would not interrupt what it waits in. */
static void start(void) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 1; i < pool_threads(); i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, NULL) == 0) pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    started = true;
}

void pool_submit(struct pool_task *task) {
    if (!started) start();
    task->next = NULL;
    task->state = POOL_QUEUED;
    pthread_mutex_lock(&mutex);
    *last = task;
    last = &task->next;
    pthread_cond_signal(&work);
    pthread_mutex_unlock(&mutex);
}

void pool_wait(struct pool_task *task) {
    pthread_mutex_lock(&mutex);
    while (task->state != POOL_DONE) {
        if (task->state == POOL_QUEUED) {
            take(task);
            run(task);
        } else if (first) { /* rather than to sleep until somebody else is ready */
            struct pool_task *other = first;
            take(other);
            run(other);
        } else {
            pthread_cond_wait(&done, &mutex);
        }
    }
    pthread_mutex_unlock(&mutex);
}

void pool_cancel(struct pool_task *task) {
    pthread_mutex_lock(&mutex);
    if (task->state == POOL_QUEUED) {
        take(task);
        task->state = POOL_DONE;
    }
    while (task->state != POOL_DONE) pthread_cond_wait(&done, &mutex);
    pthread_mutex_unlock(&mutex);
}
