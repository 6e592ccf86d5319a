// nats.c: what the broker refuses and nats-server would not is reported, and the client goes on; headers pass as they
// came. Its argument is the broker's port.

#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MILLISECONDS_MAX = 15000 };

static int reported = 0;

static void check(natsStatus status, const char *what) {
    if (status != NATS_OK) {
        fprintf(stderr, "%s: %s\n", what, natsStatus_GetText(status));
        exit(1);
    }
}

static void expect(int is_so, const char *what) {
    if (!is_so) {
        fprintf(stderr, "wrong: %s\n", what);
        exit(1);
    }
}

static void note_error(natsConnection *nc, natsSubscription *subscription, natsStatus error, void *closure) {
    (void)nc, (void)subscription, (void)closure;
    expect(error == NATS_NOT_PERMITTED, "the kind of an error");
    reported += 1;
}

int main(int count, char **arguments) {
    char url[64];
    natsOptions *options = NULL;
    natsConnection *nc = NULL;
    natsSubscription *subscription = NULL;
    natsMsg *message = NULL;

    expect(count > 1, "the arguments");
    snprintf(url, sizeof(url), "nats://127.0.0.1:%s", arguments[1]);
    check(natsOptions_Create(&options), "options");
    check(natsOptions_SetURL(options, url), "the address");
    check(natsOptions_SetAllowReconnect(options, false), "no reconnecting");
    check(natsOptions_SetErrorHandler(options, note_error, NULL), "the error handler");
    check(natsConnection_Connect(&nc, options), "connect");
    check(natsConnection_SubscribeSync(&subscription, nc, "still.there"), "subscribe");

    char deep[65 * 2] = "t";
    for (int token = 1; token < 65; token += 1) strcat(deep, ".t");
    char name[1026];
    memset(name, 'x', 1025);
    name[1025] = 0;
    check(natsConnection_PublishString(nc, deep, "x"), "65 tokens");
    check(natsConnection_PublishString(nc, name, "x"), "1,025 bytes");
    check(natsMsg_Create(&message, "still.there", NULL, "yes", 3), "a message");
    check(natsMsgHeader_Set(message, "My Name", "some value"), "a header");
    check(natsConnection_PublishMsg(nc, message), "publish");
    natsMsg_Destroy(message);

    check(natsSubscription_NextMsg(&message, subscription, MILLISECONDS_MAX), "the message");
    const char *value = NULL;
    check(natsMsgHeader_Get(message, "My Name", &value), "its header");
    expect(strcmp(value, "some value") == 0, "the header's value");
    expect(natsMsg_GetDataLength(message) == 3, "the payload");
    natsMsg_Destroy(message);
    check(natsConnection_FlushTimeout(nc, MILLISECONDS_MAX), "flush");
    expect(natsConnection_Status(nc) == NATS_CONN_STATUS_CONNECTED, "the connection");
    natsConnection_Close(nc);
    // Errors are reported by another thread, which ends with the connection.
    for (int tries = 0; reported < 2 && tries < MILLISECONDS_MAX; tries += 1) nats_Sleep(1);
    expect(reported == 2, "the number of errors");
    natsSubscription_Destroy(subscription);
    natsConnection_Destroy(nc);
    natsOptions_Destroy(options);
    nats_Close();
    return 0;
}
