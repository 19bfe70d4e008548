"""The words of a pilot's page, in both of its languages; numbers are put in as they are formatted."""

from __future__ import annotations

LANGUAGES = ("en", "ja")

TEXTS: dict[str, tuple[str, str]] = {
    "title": ("Would training the draft pay?", "ドラフトモデルの追加学習は採算に合うか"),
    "subtitle": (
        "Result of a pilot with {draft} as the draft of {target}",
        "パイロット結果（ドラフトモデル：{draft}、ターゲットモデル：{target}）",
    ),
    "go": ("Go", "実施を推奨"),
    "no-go": ("No-go", "見送りを推奨"),
    "not enough": ("Not enough data", "データ不足のため判断保留"),
    # The sentence under the verdict, by what decided.
    "go, said": (
        "Train the draft. Even by the cautious estimate, {steps} steps of training raise the tokens per "
        "call of the large model ({low}), and the time saved has paid for them after {most} requests.",
        "追加学習の実施を推奨します。控えめに見積もっても、{steps} ステップの学習により、ターゲットモデル"
        " 1 回の呼び出しで得られるトークン数が増え（{low}）、{most} 件のリクエストで学習コストを回収でき"
        "ます。",
    ),
    "no-go, gain": (
        "Leave the draft as it is. Even by the hopeful estimate, training changes the tokens per call of "
        "the large model by {high}; at least {least} is asked for.",
        "追加学習は見送り、現在のドラフトモデルを使い続けることを推奨します。楽観的に見積もっても、ターゲ"
        "ットモデル 1 回の呼び出しで得られるトークン数の変化は {high} にとどまり、求める水準（{least} 以"
        "上）に届きません。",
    ),
    "no-go, cost": (
        "Leave the draft as it is. Even by the hopeful estimate, the time saved pays for the training "
        "only after {fewest} requests; at most {limit} are allowed.",
        "追加学習は見送り、現在のドラフトモデルを使い続けることを推奨します。楽観的に見積もっても、学習コ"
        "ストの回収には {fewest} 件のリクエストが必要であり、許容範囲（{limit} 件以内）を超えます。",
    ),
    "not enough, gain": (
        "These data cannot tell. Training may change the tokens per call of the large model by anything "
        "from {low} to {high}; at least {least} is asked for.",
        "今回のデータからは判断できません。ターゲットモデル 1 回の呼び出しで得られるトークン数の変化は "
        "{low} から {high} の範囲と見込まれ、求める水準（{least} 以上）を満たすとは言い切れません。",
    ),
    "not enough, cost": (
        "There is a gain, but these data cannot tell whether it pays. The time saved pays for the "
        "training after {fewest} to {most} requests; at most {limit} are allowed.",
        "改善は確認できましたが、採算に合うかどうかは今回のデータからは判断できません。学習コストの回収に"
        "必要なリクエスト数は {fewest} 件から {most} 件と見込まれます（許容範囲は {limit} 件以内）。",
    ),
    "next": ("Next step", "次のステップ"),
    "go, next": (
        "Train on all of the prompts, judge the result on held-out ones before it serves (distillspec "
        "redistill does both), put it into service in stages, and watch the acceptance afterwards.",
        "すべてのプロンプトで学習し、本番投入の前に評価用プロンプトで合否を判定してください（distillspec "
        "redistill が両方を行います）。その後は段階的に切り替え、受理率の監視を続けます。",
    ),
    "no-go, next": (
        "Keep the present draft. Ask again when the prompts have changed, or with another recipe or "
        "another draft.",
        "当面は現在のドラフトモデルを維持し、プロンプトの傾向が変わったとき、または学習方法やドラフトモデ"
        "ルを変更するときに、あらためてパイロットを実施してください。",
    ),
    "not enough, prompts": (
        "Collect about {needed} different prompts in all, of which {judged} are held out, and run the "
        "pilot again with --prompts={judged_flag}.",
        "異なるプロンプトを合計約 {needed} 件（うち評価用 {judged} 件）用意し、--prompts={judged_flag} を"
        "指定してパイロットを再実施してください。",
    ),
    "not enough, steps": (
        "Run a longer pilot (--pilot_steps, --minutes): the shorter it is, the less it tells about the "
        "whole training.",
        "パイロットの学習ステップ数を増やして（--pilot_steps、--minutes）再実施してください。短いパイロッ"
        "トほど、本学習の効果を見通しにくくなります。",
    ),
    # The table: what, and what it means.
    "acceptance": ("Acceptance today", "現在の受理率"),
    "acceptance, means": (
        "share of the draft's tokens that the large model accepts",
        "ドラフトモデルの提案トークンのうち、ターゲットモデルが受理した割合",
    ),
    "efficiency": ("Tokens per call today", "現在の 1 回あたりトークン数"),
    "efficiency, means": (
        "tokens of text for each call of the large model; 1 without a draft",
        "ターゲットモデル 1 回の呼び出しで得られるトークン数（ドラフトモデルなしでは 1）",
    ),
    "seen": ("Change by the pilot", "パイロットによる変化"),
    "seen, means": (
        "of tokens per call, by {pilot_steps} steps, measured on the same prompts before and after",
        "{pilot_steps} ステップの学習による 1 回あたりトークン数の変化（同じプロンプトで学習前後を比較）",
    ),
    "gain": ("Change by the whole training", "本学習による変化（予測）"),
    "gain, means": (
        "of tokens per call, by {steps} steps; extrapolated, not measured",
        "{steps} ステップの学習による 1 回あたりトークン数の変化（実測ではなく外挿による予測値）",
    ),
    "cost": ("Cost", "学習コスト"),
    "cost, means": (
        "time of training on this machine, the pilot's included",
        "この計算機での学習時間（パイロット分を含む）",
    ),
    "saved": ("Saved a request", "1 件あたりの短縮時間（予測）"),
    "saved, means": (
        "of {now} that a request takes today on this machine",
        "現在の 1 件あたりの処理時間は {now}（この計算機での実測）",
    ),
    "requests": ("Break-even requests", "損益分岐点となるリクエスト数"),
    "requests, means": (
        "requests after which the time saved has paid for the training; ∞: never",
        "短縮時間の累計が学習時間を上回るまでのリクエスト数（∞ は回収の見込みなし）",
    ),
    "chart": (
        "Change in tokens per call: value and interval; the dashed line is what is asked for ({least})",
        "1 回あたりトークン数の変化（点は推定値、線は区間、破線は求める水準 {least}）",
    ),
    "basis": ("What this rests on", "前提と算出方法"),
    "basis, data": (
        "{all} different prompts of {data}: {trained} to train on, {judged} held out to judge. Which are "
        "held out is decided by a hash of their text, so that none of them is ever trained on. "
        "Temperature {temperature}, {block_size} draft tokens a round.",
        "{data} の異なるプロンプト {all} 件のうち、{trained} 件を学習に、{judged} 件を評価に使用しました。"
        "評価用かどうかはテキストのハッシュ値で決まり、評価用のプロンプトが学習に使われることはありません。"
        "サンプリング温度は {temperature}、ドラフトモデルの 1 回の提案は {block_size} トークンです。",
    ),
    "basis, interval": (
        "Brackets are 90 % intervals over prompts: each end is right with 95 % confidence.",
        "括弧内はプロンプトのばらつきに基づく 90 % 信頼区間です（片側 95 %）。",
    ),
    "basis, growth": (
        "The whole training is extrapolated. The estimate and its hopeful end take the change to grow "
        "with the square root of the steps; the cautious end takes a gain to stop where the pilot left "
        "it, and a loss to grow. These are assumptions.",
        "本学習の効果は外挿による予測です。推定値と区間の上端は、変化がステップ数の平方根に比例して大きく"
        "なると仮定しています。区間の下端は、改善はパイロット時点で頭打ちになり、悪化は拡大すると仮定して"
        "います。",
    ),
    "basis, time": (
        "Times are of this machine ({device}), which decoded up to 16 requests at once; on a CPU they are "
        "processor time, added up over its cores, since the clock also counts what else runs there. Where "
        "the service runs on other machines, break-even compares hours of the one with hours of the other, "
        "not their prices.",
        "時間はこの計算機（{device}）で最大 16 件を同時に処理して測定しました。CPU の場合は、他の処理の影響を"
        "避けるため、経過時間ではなく全コア合計の CPU 時間です。本番環境の計算機が異なる場"
        "合、損益分岐点はそれぞれの稼働時間の比較であり、料金の比較ではありません。",
    ),
    "basis, quality": (
        "The texts' quality is not at stake: with any draft, the output follows the large model's "
        "distribution.",
        "出力の品質には影響しません。どのドラフトモデルを使っても、出力はターゲットモデルの確率分布に従い"
        "ます。",
    ),
    "seconds": ("{number} s", "{number} 秒"),
    "milliseconds": ("{number} ms", "{number} ミリ秒"),
    "means": ("meaning", "意味"),
    "what": ("quantity", "項目"),
    "value": ("value", "値"),
}
"""Each text in the order of `LANGUAGES`."""


def text(key: str, language: str, **values: str) -> str:
    """Writes one text in a language, with values put in."""
    return TEXTS[key][LANGUAGES.index(language)].format(**values)
