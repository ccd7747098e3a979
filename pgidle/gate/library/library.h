/* What the files of the library share. library.c says what all of it is for. Included first: it defines _GNU_SOURCE. */
#ifndef PGIDLE_LIBRARY_H
#define PGIDLE_LIBRARY_H

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
/* The C library's function of the same name as ours. Looked up at its first call, which may come from another library's
 * constructor, before our own has run. */
#define NEXT(function)                                                                                                 \
	({                                                                                                             \
		static void *found;                                                                                    \
		if (found == NULL)                                                                                     \
			found = dlsym(RTLD_NEXT, #function);                                                           \
		(__typeof__(&(function)))found;                                                                        \
	})
#define EACH(one) (struct listener *one = listeners; one < listeners + count; one++)

enum {
	VERSION = 1,	/* of the records */
	WIDE = 65535,	/* a backlog that leaves the limit to net.core.somaxconn */
	MOST = 64,	/* listeners: Postgres's own MAXLISTEN */
	TOLD_PEERS = 8, /* Unix clients that are named after each opening */
	AGAIN = 20,	/* milliseconds until a record that the channel had no room for is sent again */
	ANY = -2,	/* in place of a descriptor */
};

/* The records' first number; gate/channel.py has the other end. */
enum kind {
	OPEN = 'O',  /* From the supervisor: number of the order, alarms that it knows of. */
	SHUT = 'C',  /* From the supervisor: number of the order. */
	HELLO = 'H', /* Ours, before all others: version, number of inherited listeners. */
	UNIX = 'U',  /* Carries the descriptor of a Unix socket that Postgres has made. */
	WAITS = 'W', /* Once, before the first wait: number of listeners waited for; bits of the inherited ones left out. */
	STATE = 'S', /* Answers an order: its number, 1 if the gate is open now, alarms. */
	CHILD = 'K', /* An alarm: signal, the child that it is for, alarms. */
	STOP = 'T',  /* An alarm: signal, who sent it to the postmaster, alarms. */
	PEER = 'P',  /* Pid and uid of a client that was accepted at a Unix socket. */
	LOCK = 'L',  /* Postgres is done with the lock file of a Unix socket, and has left it. */
};

struct listener {
	int given; /* the supervisor's descriptor, until Postgres binds the address */
	int fd;	   /* Postgres's, from then on */
	int after; /* Postgres's descriptor of another listener, whose accept() takes from this one first; or ANY */
	bool is_untold; /* made by Postgres, and not sent to the supervisor yet */
	bool is_watched; /* by Postgres's epoll, as far as Postgres knows */
	bool is_lock_left; /* once: a second attempt of Postgres's is for what it takes for an earlier server's lock */
	struct epoll_event event;
	socklen_t length;
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage room;
	} at;
};

/* library.c */
extern struct listener listeners[MOST];
extern int count;	/* of listeners */
extern int inherited;	/* the first so many are the supervisor's */
extern int channel;	/* to the supervisor; -1 once that is gone */
extern pid_t supervisor;
extern pid_t postmaster; /* 0 in what it forks */
extern atomic_bool is_open;
bool is_postmaster(void);
struct listener *find(int fd);

/* channel.c */
bool tell(enum kind kind, int a, int b, int c, int fd);
bool catch_up(void);
void answer(int order);

/* alarms.c */
extern atomic_int alarms; /* how many there have been */
bool is_alarm_due(void);
bool tell_alarms(void);

/* sockets.c */
bool is_ended(int fd);

#endif
