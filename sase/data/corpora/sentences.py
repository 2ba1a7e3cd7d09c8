"""Plain sentences out of patterns, in English and in Mandarin; without commas, so that nobody pauses for long."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grammar:
    """What sentences are made of.

    Attributes:
        words: {part of a sentence: the phrases that it may be}.
        patterns: sentences as tuples of parts; all equally likely.
        space: between two parts.
        stop: at the end.
    """

    words: dict[str, tuple[str, ...]]
    patterns: tuple[tuple[str, ...], ...]
    space: str
    stop: str


ENGLISH = Grammar(
    words={
        "subjects": (
            "the old sailor", "my younger sister", "a tired teacher", "the village doctor", "our noisy neighbour",
            "the night watchman", "her favourite uncle", "a careful painter", "the new manager", "his quiet daughter",
            "the bus driver", "a famous singer", "the local farmer", "every honest baker", "the young engineer",
            "some hungry children", "two grey horses", "the chess players", "seven brave firemen",
            "many happy students",
        ),
        "verbs": (
            "carried", "found", "dropped", "painted", "borrowed", "sold", "watched", "cleaned", "forgot", "measured",
            "repaired", "brought", "covered", "moved", "chose", "noticed", "guarded", "collected", "admired", "wrapped",
        ),
        "objects": (
            "a heavy basket", "the wooden ladder", "five red apples", "an empty bottle", "the broken window",
            "a silver watch", "the yellow paper", "fresh brown bread", "his winter jacket", "a box of matches",
            "the garden chairs", "an unusual picture", "the rusty bicycle", "a bunch of flowers", "the kitchen table",
            "three small boats", "a jar of honey", "the leather shoes", "some cheap furniture", "a very thick book",
        ),
        "places": (
            "near the station", "behind the church", "across the bridge", "under the apple tree", "at the market",
            "by the frozen lake", "in the next room", "along the river", "outside the theatre", "on the top shelf",
            "beside the fire", "between two houses", "in front of the bank", "above the harbour", "at the edge of town",
        ),
        "times": (
            "before sunrise", "every Thursday", "late last night", "in early spring", "after the storm", "this morning",
            "for several hours", "once a week", "until midnight", "during the holiday", "on her birthday",
            "last September",
        ),
        "advice": (
            "please", "you should", "we could", "they want to", "she hopes to", "nobody has to", "I would rather",
            "let us",
        ),
        "actions": (
            "open the door", "wait for the train", "read the whole letter", "turn off the radio", "walk to the museum",
            "ask for directions", "feed the chickens", "write down the number", "fetch a glass of water",
            "call the police", "choose a different colour", "leave the keys", "wash the dishes", "buy another ticket",
            "listen to the music",
        ),
        "facts": (
            "the weather", "this narrow road", "their business", "the price of coffee", "a good idea",
            "the last chapter", "that strange noise", "the water in the pool", "my first impression",
            "the view from here", "its final version",
        ),
        "judgements": (
            "is much better than we thought", "was difficult to understand", "seems rather unusual",
            "has changed since June", "could not have been worse", "will surprise most visitors",
            "is worth a closer look", "was almost too good", "makes everybody nervous",
            "gives me enough to think about", "looks like a mistake", "costs more than a house",
        ),
    },
    patterns=(
        ("subjects", "verbs", "objects", "places"),
        ("times", "subjects", "verbs", "objects"),
        ("advice", "actions", "places", "times"),
        ("facts", "places", "judgements"),
        ("subjects", "verbs", "objects", "times"),
    ),
    space=" ",
    stop=".",
)  # fmt: skip

MANDARIN = Grammar(
    words={
        "subjects": (
            "我的妹妹", "老船长", "王老师", "村里的医生", "我们的邻居", "她的叔叔", "年轻的工程师", "新来的经理",
            "公共汽车司机", "那位歌手", "两个学生", "隔壁的小孩", "图书馆的工作人员", "我爷爷", "几位游客", "这家公司",
        ),
        "verbs": (
            "买了", "找到了", "借走了", "卖掉了", "看见了", "打扫了", "忘记了", "修好了", "带来了", "选择了", "画了",
            "收集了",
        ),
        "objects": (
            "五个红苹果", "一把旧椅子", "那封长信", "三本很厚的书", "一张地图", "新鲜的面包", "他的自行车", "一瓶蜂蜜",
            "厨房的桌子", "许多照片", "两件冬天的衣服", "一只白色的小狗", "黄色的雨伞", "全部的作业", "一块银色的手表",
        ),
        "places": (
            "在火车站附近", "在桥的对面", "在市场里", "在河边", "在学校门口", "在隔壁的房间", "在图书馆", "在苹果树下",
            "在北京的南边", "在博物馆外面", "在城市的中心", "在医院后面",
        ),
        "times": (
            "今天早上", "昨天晚上", "每个星期四", "去年九月", "下雨以后", "放假的时候", "春天的时候", "天亮以前",
            "前几天", "半夜十二点", "上个周末", "明天下午",
        ),
        "advice": (
            "请你", "我们应该", "他们想要", "她希望能够", "大家最好", "我宁愿", "你可以", "没有人愿意",
        ),
        "actions": (
            "打开窗户", "等下一班火车", "读完这封信", "关掉收音机", "走路去博物馆", "写下电话号码", "倒一杯水",
            "洗干净盘子", "再买一张票", "听一会儿音乐", "换一种颜色", "打电话给老师",
        ),
        "facts": (
            "今年的天气", "这条小路", "他们的生意", "咖啡的价格", "最后一章", "那个奇怪的声音", "湖里的水",
            "从这里看到的风景", "第一个问题", "这座城市的历史",
        ),
        "judgements": (
            "比我们想象的好得多", "很难让人明白", "看起来有点奇怪", "已经改变了很多", "让大家都很高兴", "值得仔细研究",
            "好像是一个错误", "跟以前完全不一样", "使每个人都很紧张", "对孩子们非常重要",
        ),
    },
    patterns=(
        ("times", "subjects", "places", "verbs", "objects"),
        ("subjects", "times", "verbs", "objects"),
        ("times", "advice", "places", "actions"),
        ("facts", "judgements"),
        ("subjects", "places", "verbs", "objects"),
    ),
    space="",
    stop="。",
)  # fmt: skip


def sentence(generator, grammar=ENGLISH):
    """Return one sentence, drawn with an np.random.Generator, of a :class:`Grammar` with more than 30,000."""
    pattern = grammar.patterns[generator.integers(len(grammar.patterns))]
    phrases = [grammar.words[part] for part in pattern]
    text = grammar.space.join(words[generator.integers(len(words))] for words in phrases)
    return text[0].upper() + text[1:] + grammar.stop


def sentences(count, generator, grammar=ENGLISH):
    """Return ``count`` different sentences."""
    found = {}
    while len(found) < count:
        found.setdefault(sentence(generator, grammar))
    return list(found)
