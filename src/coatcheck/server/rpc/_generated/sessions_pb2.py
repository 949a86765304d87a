"""The messages of proto/coatcheck/v1/sessions.proto. Written by `make proto`: do not edit."""

import google.protobuf.duration_pb2
import google.protobuf.timestamp_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
    b'\n\x1bcoatcheck/v1/sessions.proto\x12\x0ccoatcheck.v1\x1a\x1egoogl'
    b'e/protobuf/duration.proto\x1a\x1fgoogle/protobuf/timesta'
    b'mp.proto"\x9d\x03\n\x07Session\x12\n\n\x02id\x18\x01 \x01(\t\x12\x11\n\x04name\x18\x02 \x01(\tH\x00\x88\x01'
    b'\x01\x12\x0f\n\x07current\x18\x03 \x01(\x08\x12.\n\ncreated_at\x18\x04 \x01(\x0b2\x1a.google.pr'
    b'otobuf.Timestamp\x124\n\x10authenticated_at\x18\x05 \x01(\x0b2\x1a.googl'
    b'e.protobuf.Timestamp\x120\n\x0clast_seen_at\x18\x06 \x01(\x0b2\x1a.googl'
    b'e.protobuf.Timestamp\x12.\n\nexpires_at\x18\x07 \x01(\x0b2\x1a.google.'
    b"protobuf.Timestamp\x12'\n\x04kind\x18\x08 \x01(\x0e2\x19.coatcheck.v1.Se"
    b'ssionKind\x12\x13\n\x06method\x18\t \x01(\tH\x01\x88\x01\x01\x12\x14\n\x07address\x18\n \x01(\tH\x02\x88'
    b'\x01\x01\x12\x17\n\nuser_agent\x18\x0b \x01(\tH\x03\x88\x01\x01B\x07\n\x05_nameB\t\n\x07_methodB\n\n'
    b'\x08_addressB\r\n\x0b_user_agent"\r\n\x0bListRequest"7\n\x0cListRes'
    b'ponse\x12\'\n\x08sessions\x18\x01 \x03(\x0b2\x15.coatcheck.v1.Session" \n\n'
    b'EndRequest\x12\x12\n\nsession_id\x18\x01 \x01(\t"\r\n\x0bEndResponse"\x0f\n\rE'
    b'ndAllRequest"\x1f\n\x0eEndAllResponse\x12\r\n\x05ended\x18\x01 \x01(\x05"\xe6\x01\n\x0c'
    b'CheckRequest\x12\x10\n\x06cookie\x18\x01 \x01(\tH\x00\x12\x16\n\x0caccess_token\x18\x02 \x01'
    b'(\tH\x00\x12\x0e\n\x06method\x18\x03 \x01(\t\x12\x13\n\x06origin\x18\x04 \x01(\tH\x01\x88\x01\x01\x12\x1b\n\x0esec_f'
    b'etch_site\x18\x05 \x01(\tH\x02\x88\x01\x01\x12\x12\n\nplain_http\x18\x06 \x01(\x08\x12*\n\x07max_ag'
    b'e\x18\x07 \x01(\x0b2\x19.google.protobuf.DurationB\x0c\n\ncredentialB\t'
    b'\n\x07_originB\x11\n\x0f_sec_fetch_site"o\n\rCheckResponse\x12*\n\x08i'
    b'dentity\x18\x01 \x01(\x0b2\x16.coatcheck.v1.IdentityH\x00\x12(\n\x07refusal'
    b'\x18\x02 \x01(\x0b2\x15.coatcheck.v1.RefusalH\x00B\x08\n\x06result"\xd8\x01\n\x08Iden'
    b'tity\x12\x0f\n\x07user_id\x18\x01 \x01(\t\x12\x10\n\x08username\x18\x02 \x01(\t\x12\x12\n\nsession'
    b'_id\x18\x03 \x01(\t\x12/\n\x0csession_kind\x18\x04 \x01(\x0e2\x19.coatcheck.v1.Ses'
    b'sionKind\x124\n\x10authenticated_at\x18\x05 \x01(\x0b2\x1a.google.protob'
    b'uf.Timestamp\x12.\n\nexpires_at\x18\x06 \x01(\x0b2\x1a.google.protobuf'
    b'.Timestamp"\xc7\x01\n\x07Refusal\x12,\n\x06reason\x18\x01 \x01(\x0e2\x1c.coatcheck'
    b'.v1.Refusal.Reason\x12\x0e\n\x06detail\x18\x02 \x01(\t"~\n\x06Reason\x12\x16\n\x12RE'
    b'ASON_UNSPECIFIED\x10\x00\x12\x11\n\rREASON_NOBODY\x10\x01\x12\x18\n\x14REASON_IN'
    b'VALID_TOKEN\x10\x02\x12\x15\n\x11REASON_OTHER_SITE\x10\x03\x12\x18\n\x14REASON_LOG'
    b'IN_TOO_OLD\x10\x04"B\n\x0cWatchRequest\x12\r\n\x05after\x18\x01 \x01(\t\x12#\n\x06top'
    b'ics\x18\x02 \x03(\x0e2\x13.coatcheck.v1.Topic"o\n\rWatchResponse\x12&\n'
    b'\x08activity\x18\x01 \x01(\x0b2\x12.coatcheck.v1.ToldH\x00\x12.\n\nrevocatio'
    b'n\x18\x02 \x01(\x0b2\x18.coatcheck.v1.RevocationH\x00B\x06\n\x04told"\xbd\x01\n\x04To'
    b'ld\x12\r\n\x05place\x18\x01 \x01(\t\x12$\n\x05begin\x18\x02 \x01(\x0b2\x13.coatcheck.v1.Be'
    b'ginH\x00\x12$\n\x05reset\x18\x03 \x01(\x0b2\x13.coatcheck.v1.ResetH\x00\x12,\n\thea'
    b'rtbeat\x18\x04 \x01(\x0b2\x17.coatcheck.v1.HeartbeatH\x00\x12$\n\x05event\x18\x05'
    b' \x01(\x0b2\x13.coatcheck.v1.EventH\x00B\x06\n\x04what"\x07\n\x05Begin"\x07\n\x05Re'
    b'set"\x0b\n\tHeartbeat"\x89\x03\n\x05Event\x12&\n\x04kind\x18\x01 \x01(\x0e2\x18.coatche'
    b'ck.v1.Event.Kind\x12\x12\n\nsession_id\x18\x02 \x01(\t\x12&\n\x02at\x18\x03 \x01(\x0b2\x1a'
    b'.google.protobuf.Timestamp\x12/\n\x06detail\x18\x04 \x03(\x0b2\x1f.coatc'
    b'heck.v1.Event.DetailEntry\x1a-\n\x0bDetailEntry\x12\x0b\n\x03key\x18\x01 '
    b'\x01(\t\x12\r\n\x05value\x18\x02 \x01(\t:\x028\x01"\xbb\x01\n\x04Kind\x12\x14\n\x10KIND_UNSPECIFIE'
    b'D\x10\x00\x12\x10\n\x0cKIND_CREATED\x10\x01\x12\x0e\n\nKIND_ENDED\x10\x02\x12\x18\n\x14KIND_REAU'
    b'THENTICATED\x10\x03\x12\x19\n\x15KIND_PASSWORD_CHANGED\x10\x04\x12\x12\n\x0eKIND_R'
    b'EFRESHED\x10\x05\x12\x10\n\x0cKIND_RENAMED\x10\x06\x12\x0f\n\x0bKIND_OPENED\x10\x07\x12\x0f\n\x0bK'
    b'IND_CLOSED\x10\x08"\xa6\x06\n\nRevocation\x12/\n\x05begin\x18\x01 \x01(\x0b2\x1e.coatc'
    b'heck.v1.Revocation.SinceH\x00\x12/\n\x05reset\x18\x02 \x01(\x0b2\x1e.coatch'
    b'eck.v1.Revocation.SinceH\x00\x12>\n\rsession_ended\x18\x03 \x01(\x0b2%'
    b'.coatcheck.v1.Revocation.SessionEndedH\x00\x12H\n\x12generat'
    b'ion_changed\x18\x04 \x01(\x0b2*.coatcheck.v1.Revocation.Genera'
    b'tionChangedH\x00\x12=\n\ruser_in_doubt\x18\x05 \x01(\x0b2$.coatcheck.v'
    b'1.Revocation.UserInDoubtH\x00\x127\n\tconfirmed\x18\x06 \x01(\x0b2".co'
    b'atcheck.v1.Revocation.ConfirmedH\x00\x1ae\n\x05Since\x12)\n\x05sinc'
    b'e\x18\x01 \x01(\x0b2\x1a.google.protobuf.Timestamp\x121\n\x0etoken_lifet'
    b'ime\x18\x02 \x01(\x0b2\x19.google.protobuf.Duration\x1aJ\n\x0cSessionEnd'
    b'ed\x12\x12\n\nsession_id\x18\x01 \x01(\t\x12&\n\x02at\x18\x02 \x01(\x0b2\x1a.google.protob'
    b'uf.Timestamp\x1ac\n\x11GenerationChanged\x12\x12\n\nsession_id\x18\x01 '
    b'\x01(\t\x12\x12\n\ngeneration\x18\x02 \x01(\x05\x12&\n\x02at\x18\x03 \x01(\x0b2\x1a.google.proto'
    b'buf.Timestamp\x1aF\n\x0bUserInDoubt\x12\x0f\n\x07user_id\x18\x01 \x01(\t\x12&\n\x02a'
    b't\x18\x02 \x01(\x0b2\x1a.google.protobuf.Timestamp\x1aL\n\tConfirmed\x12\r'
    b'\n\x05place\x18\x01 \x01(\t\x120\n\rafter_arrival\x18\x02 \x01(\x0b2\x19.google.prot'
    b'obuf.DurationB\x06\n\x04what"\x90\x02\n\x0fConverseRequest\x12\n\n\x02id\x18\x01 '
    b"\x01(\t\x12)\n\x04list\x18\x02 \x01(\x0b2\x19.coatcheck.v1.ListRequestH\x00\x12'\n\x03"
    b'end\x18\x03 \x01(\x0b2\x18.coatcheck.v1.EndRequestH\x00\x12.\n\x07end_all\x18\x04'
    b' \x01(\x0b2\x1b.coatcheck.v1.EndAllRequestH\x00\x12-\n\x06rename\x18\x05 \x01('
    b'\x0b2\x1b.coatcheck.v1.RenameRequestH\x00\x123\n\tsubscribe\x18\x06 \x01('
    b'\x0b2\x1e.coatcheck.v1.SubscribeRequestH\x00B\t\n\x07command"1\n\r'
    b'RenameRequest\x12\x12\n\nsession_id\x18\x01 \x01(\t\x12\x0c\n\x04name\x18\x02 \x01(\t"F\n'
    b'\x10SubscribeRequest\x12#\n\x06topics\x18\x01 \x03(\x0e2\x13.coatcheck.v1.T'
    b'opic\x12\r\n\x05after\x18\x02 \x01(\t"k\n\x10ConverseResponse\x12$\n\x05reply\x18\x01'
    b' \x01(\x0b2\x13.coatcheck.v1.ReplyH\x00\x12&\n\x08activity\x18\x02 \x01(\x0b2\x12.co'
    b'atcheck.v1.ToldH\x00B\t\n\x07message"\xa4\x02\n\x05Reply\x12\n\n\x02id\x18\x01 \x01(\t'
    b'\x12*\n\x04list\x18\x02 \x01(\x0b2\x1a.coatcheck.v1.ListResponseH\x00\x12(\n\x03en'
    b'd\x18\x03 \x01(\x0b2\x19.coatcheck.v1.EndResponseH\x00\x12/\n\x07end_all\x18\x04 '
    b'\x01(\x0b2\x1c.coatcheck.v1.EndAllResponseH\x00\x12(\n\x07renamed\x18\x05 \x01'
    b'(\x0b2\x15.coatcheck.v1.SessionH\x00\x12.\n\nsubscribed\x18\x06 \x01(\x0b2\x18.'
    b'coatcheck.v1.SubscribedH\x00\x12$\n\x05error\x18\x07 \x01(\x0b2\x13.coatche'
    b'ck.v1.ErrorH\x00B\x08\n\x06result"1\n\nSubscribed\x12#\n\x06topics\x18\x01 '
    b'\x03(\x0e2\x13.coatcheck.v1.Topic"%\n\x05Error\x12\x0c\n\x04code\x18\x01 \x01(\x05\x12\x0e\n'
    b'\x06detail\x18\x02 \x01(\t*\\\n\x0bSessionKind\x12\x1c\n\x18SESSION_KIND_UNSPE'
    b'CIFIED\x10\x00\x12\x17\n\x13SESSION_KIND_COOKIE\x10\x01\x12\x16\n\x12SESSION_KIND_'
    b'TOKEN\x10\x02*I\n\x05Topic\x12\x15\n\x11TOPIC_UNSPECIFIED\x10\x00\x12\x12\n\x0eTOPIC_S'
    b'ESSIONS\x10\x01\x12\x15\n\x11TOPIC_CONNECTIONS\x10\x022\xa5\x03\n\x0eSessionServic'
    b'e\x12@\n\x05Check\x12\x1a.coatcheck.v1.CheckRequest\x1a\x1b.coatcheck'
    b'.v1.CheckResponse\x12=\n\x04List\x12\x19.coatcheck.v1.ListReque'
    b'st\x1a\x1a.coatcheck.v1.ListResponse\x12:\n\x03End\x12\x18.coatcheck.'
    b'v1.EndRequest\x1a\x19.coatcheck.v1.EndResponse\x12C\n\x06EndAll'
    b'\x12\x1b.coatcheck.v1.EndAllRequest\x1a\x1c.coatcheck.v1.EndAl'
    b'lResponse\x12B\n\x05Watch\x12\x1a.coatcheck.v1.WatchRequest\x1a\x1b.c'
    b'oatcheck.v1.WatchResponse0\x01\x12M\n\x08Converse\x12\x1d.coatchec'
    b'k.v1.ConverseRequest\x1a\x1e.coatcheck.v1.ConverseRespon'
    b'se(\x010\x01b\x06proto3'
)

SessionKind = EnumTypeWrapper(DESCRIPTOR.enum_types_by_name["SessionKind"])
SESSION_KIND_UNSPECIFIED = 0
SESSION_KIND_COOKIE = 1
SESSION_KIND_TOKEN = 2
Topic = EnumTypeWrapper(DESCRIPTOR.enum_types_by_name["Topic"])
TOPIC_UNSPECIFIED = 0
TOPIC_SESSIONS = 1
TOPIC_CONNECTIONS = 2
Session = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Session"])
ListRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ListRequest"])
ListResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ListResponse"])
EndRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["EndRequest"])
EndResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["EndResponse"])
EndAllRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["EndAllRequest"])
EndAllResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["EndAllResponse"])
CheckRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["CheckRequest"])
CheckResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["CheckResponse"])
Identity = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Identity"])
Refusal = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Refusal"])
WatchRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["WatchRequest"])
WatchResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["WatchResponse"])
Told = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Told"])
Begin = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Begin"])
Reset = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Reset"])
Heartbeat = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Heartbeat"])
Event = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Event"])
Revocation = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Revocation"])
ConverseRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ConverseRequest"])
RenameRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["RenameRequest"])
SubscribeRequest = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["SubscribeRequest"])
ConverseResponse = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["ConverseResponse"])
Reply = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Reply"])
Subscribed = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Subscribed"])
Error = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name["Error"])
