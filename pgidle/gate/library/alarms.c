/* Alarms, the first signs that Postgres ends. Each shuts the gate at once: the postmaster signals a child, or is
 * signalled itself. */
#include "library.h"

#include <signal.h>

static struct alarm { /* is_due: that could not be sent yet */
	enum kind kind;
	atomic_bool is_due;
	int number;
	pid_t pid;
} stop = {.kind = STOP}, child = {.kind = CHILD};
atomic_int alarms;

static bool tell_alarm(struct alarm *one)
{
	if (!atomic_exchange(&one->is_due, false) || tell(one->kind, one->number, (int)one->pid, alarms, -1))
		return true;
	one->is_due = true;
	return false;
}

bool tell_alarms(void)
{
	return tell_alarm(&stop) && tell_alarm(&child);
}

bool is_alarm_due(void)
{
	return stop.is_due || child.is_due;
}

static void raise_alarm(struct alarm *alarm, int number, pid_t pid)
{
	is_open = false;
	alarms++;
	/* Not in place of one that is due: the end of one worker must not hide a crash. */
	if (tell(alarm->kind, number, (int)pid, alarms, -1) || (alarm->is_due && number == SIGTERM))
		return;
	alarm->number = number;
	alarm->pid = pid;
	alarm->is_due = true;
}

EXPORT int kill(pid_t pid, int number)
{
	bool ends = number == SIGQUIT || number == SIGABRT || number == SIGTERM || number == SIGKILL;

	if (ends && pid > 0 && pid != postmaster && is_postmaster())
		raise_alarm(&child, number, pid);
	return NEXT(kill)(pid, number);
}

static struct sigaction handlers[SIGTERM + 1]; /* Postgres's */

static void on_stop(int number, siginfo_t *info, void *context)
{
	if (is_postmaster())
		raise_alarm(&stop, number, info->si_pid);
	if (handlers[number].sa_flags & SA_SIGINFO)
		handlers[number].sa_sigaction(number, info, context);
	else
		handlers[number].sa_handler(number);
}

EXPORT int sigaction(int number, const struct sigaction *restrict wanted, struct sigaction *restrict before)
{
	struct sigaction known, ours;

	if (number != SIGTERM && number != SIGINT && number != SIGQUIT)
		return NEXT(sigaction)(number, wanted, before);
	known = handlers[number];
	if (wanted != NULL && is_postmaster() && wanted->sa_handler != SIG_DFL && wanted->sa_handler != SIG_IGN) {
		handlers[number] = ours = *wanted;
		ours.sa_sigaction = on_stop;
		ours.sa_flags |= SA_SIGINFO;
		wanted = &ours;
	}
	if (NEXT(sigaction)(number, wanted, before) != 0)
		return -1;
	if (before != NULL && before->sa_sigaction == on_stop)
		*before = known;
	return 0;
}
